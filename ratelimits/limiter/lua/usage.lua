-- Sum each policy's usage over its window.
-- KEYS  a usage hash per policy      ARGV  width of a sub-bucket in microseconds, per policy
-- Answer: allowed, denied, callers per policy, flat.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answer = {}
for p, key in ipairs(KEYS) do
  local number = math.floor(now / (tonumber(ARGV[p]) * 5))
  local sums, callers = { a = 0, d = 0 }, {}
  local fields = redis.call('HGETALL', key)
  for n = 1, #fields, 2 do
    local other = tonumber(string.sub(fields[n], 1, -2))
    if other >= number - 12 and other <= number then
      local kind = string.sub(fields[n], -1)
      sums[kind] = sums[kind] + tonumber(fields[n + 1])
    end
  end
  for other = number - 12, number do callers[#callers + 1] = key .. ':' .. other end
  answer[#answer + 1] = sums.a
  answer[#answer + 1] = sums.d
  answer[#answer + 1] = redis.call('PFCOUNT', unpack(callers))
end
return answer
