-- Put a policy set in force unless one of the same or a higher version is there already.
-- KEYS  policy set      ARGV  version, tag, set
-- Answer: the tag that is in force afterwards.
local held = redis.call('HGET', KEYS[1], 'tag')
if held and tonumber(string.match(held, '^%d+') or '-1') >= tonumber(ARGV[1]) then
  return held
end
redis.call('HSET', KEYS[1], 'tag', ARGV[2], 'set', ARGV[3])
return ARGV[2]
