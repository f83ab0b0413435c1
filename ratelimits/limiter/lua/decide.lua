-- One request, all its policies, one answer: atomically and by this server's clock.
--
-- A counter is a ring of 61 sub-buckets, each a sixtieth of its window wide: a hash with
--   i  number of the newest sub-bucket (server time / width)     w  width in microseconds
--   t  sum of all live sub-buckets                               o  number of the oldest that is not empty
--   0..60  the count of the sub-bucket whose number leaves that remainder by 61
-- The oldest sub-bucket reaches partly out of the window and still counts in full: that is what makes
-- "never more than N in any window" hold, at the price of at most one sub-bucket's delay.
--
-- KEYS  policy set; a counter per window, in order; a usage hash per policy that has a window, in order
-- ARGV  tag of the set that the caller knows; cost; number of policies;
--       per policy: 1 if enforced, number of windows, then limit and width per window
-- Answer  {'stale', tag, set} when the caller knows another set than this server, and nothing is counted;
--         else {1 if let through, then per window: count, microseconds until the oldest leaves,
--         microseconds until this request would fit (0: it fits)}
local SLOTS = 61
local PER_USAGE_BUCKET = 5 -- usage is kept in twelfths of the window

local held = redis.pcall('HGET', KEYS[1], 'tag')
if type(held) ~= 'string' then held = '0' end -- none there, or something that is no hash
if held ~= ARGV[1] then
  local set = redis.pcall('HGET', KEYS[1], 'set')
  return { 'stale', held, type(set) == 'string' and set or '' }
end

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost = tonumber(ARGV[2])

-- Write a counter that begins or was moved. No sub-bucket is ever written as zero: the oldest must not be empty.
local function settle(w)
  redis.call('HSET', w.key, 'i', w.bucket, 'w', w.width, 't', w.total, 'o', w.oldest)
  if w.here > 0 then redis.call('HSET', w.key, w.bucket % SLOTS, w.here) end
  redis.call('PEXPIRE', w.key, math.ceil(((w.bucket + SLOTS + 1) * w.width - now) / 1000))
end

-- Bring a counter to the present: drop what has left the window; after an edited width, or a clock that
-- jumped back, carry all that still counts into the newest sub-bucket, as if it had come just now.
local function move(w, index, width)
  local fields = redis.call('HGETALL', w.key)
  local live_from = math.floor(now / width) - SLOTS + 1
  local carry = width ~= w.width or index > w.bucket
  local gone = {}
  w.total, w.oldest = 0, w.bucket
  for n = 1, #fields, 2 do
    local slot = tonumber(fields[n])
    if slot then
      local number = index - (index - slot) % SLOTS
      if number >= live_from then w.total = w.total + tonumber(fields[n + 1]) end
      if carry or number < live_from then
        gone[#gone + 1] = fields[n]
      elseif number < w.oldest then
        w.oldest = number
      end
    end
  end
  if #gone > 0 then redis.call('HDEL', w.key, unpack(gone)) end
  w.here = carry and w.total or 0
  w.moved = true
end

local function look(key, limit, width)
  local bucket = math.floor(now / width)
  local w = { key = key, limit = limit, width = width, bucket = bucket, began = false }
  local found = redis.call('HMGET', key, 'i', 'w', 't', 'o', bucket % SLOTS)
  local index, known_width = tonumber(found[1]), tonumber(found[2])
  if not index then
    w.total, w.here, w.oldest, w.began = 0, 0, bucket, true
  elseif known_width == width and index == bucket then
    w.total, w.oldest, w.here = tonumber(found[3]), tonumber(found[4]), tonumber(found[5] or 0)
  elseif known_width == width and index > bucket and index - bucket < SLOTS then
    -- the clock went back a little: the newest sub-bucket goes on counting
    w.bucket, w.total, w.oldest = index, tonumber(found[3]), tonumber(found[4])
    w.here = tonumber(redis.call('HGET', key, index % SLOTS) or 0)
  else
    w.began = true
    move(w, index, known_width)
  end
  return w
end

local function wait(w)
  local excess = w.total + cost - w.limit
  if excess <= 0 then return 0 end
  local number = w.oldest
  if excess > 1 then
    while number < w.bucket do
      excess = excess - tonumber(redis.call('HGET', w.key, number % SLOTS) or 0)
      if excess <= 0 then break end
      number = number + 1
    end
  end
  return (number + SLOTS) * w.width - now
end

local function count(w)
  if w.total == 0 then w.oldest = w.bucket end
  w.total, w.here = w.total + cost, w.here + cost
  if w.began then
    settle(w)
  else
    redis.call('HSET', w.key, 't', w.total, w.bucket % SLOTS, w.here)
  end
end

-- What the pages show: allowed and denied per twelfth of the window, and who called (as a HyperLogLog).
local function note_usage(key, first, fits)
  local span = first.width * PER_USAGE_BUCKET
  local number = math.floor(now / span)
  local lifetime = math.ceil(span * 14 / 1000)
  if redis.call('HINCRBY', key, number .. (fits and 'a' or 'd'), 1) == 1 then
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local other = tonumber(string.sub(field, 1, -2))
      if other < number - 12 or other > number then redis.call('HDEL', key, field) end
    end
    redis.call('PEXPIRE', key, lifetime)
  end
  if fits and first.began then
    local callers = key .. ':' .. number
    redis.call('PFADD', callers, first.key)
    redis.call('PEXPIRE', callers, lifetime)
  end
end

local policies, windows = {}, {}
local arg, through = 4, true
for p = 1, tonumber(ARGV[3]) do
  local policy = { enforced = ARGV[arg] == '1', fits = true, first = #windows + 1, last = #windows + tonumber(ARGV[arg + 1]) }
  arg = arg + 2
  for n = policy.first, policy.last do
    local w = look(KEYS[n + 1], tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]))
    w.wait = wait(w)
    if w.wait > 0 then policy.fits = false end
    windows[n] = w
    arg = arg + 2
  end
  if policy.enforced and not policy.fits then through = false end
  policies[p] = policy
end

local answer, usage = { through and 1 or 0 }, #windows + 1
for _, policy in ipairs(policies) do
  -- an enforced policy counts only what all enforced ones let through; a shadow counts what it alone would
  local counts = policy.fits
  if policy.enforced then counts = through end
  for n = policy.first, policy.last do
    local w = windows[n]
    if counts then
      count(w)
    elseif w.moved then
      settle(w)
    end
    answer[#answer + 1] = w.total
    answer[#answer + 1] = w.total > 0 and (w.oldest + SLOTS) * w.width - now or 0
    answer[#answer + 1] = w.wait
  end
  if policy.last >= policy.first then
    usage = usage + 1 -- an unlimited policy has neither windows nor usage
    note_usage(KEYS[usage], windows[policy.first], counts)
  end
end
return answer
