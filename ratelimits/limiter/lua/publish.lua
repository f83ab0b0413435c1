-- Put a policy set in force unless one of the same or a higher version is there already.
-- KEYS  policy set      ARGV  version, tag, set
-- Answer: the tag that is in force afterwards.
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end -- whatever lies there is not ours
local held = redis.call('HGET', KEYS[1], 'tag')
local version = held and string.match(held, '^(%d+)%.')
if version and #version <= 15 and tonumber(version) >= tonumber(ARGV[1]) then
  return held
end
redis.call('HSET', KEYS[1], 'tag', ARGV[2], 'set', ARGV[3])
return ARGV[2]
