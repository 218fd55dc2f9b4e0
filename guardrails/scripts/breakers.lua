-- Copies breakers. Each has the time of its last change as a version: an older one changes nothing.
--
-- KEYS[1...] the hash of each breaker's scope: everyone or user
-- ARGV[1] shift_s    added to the server's clock; 0 except in tests
-- ARGV[2] open_s     for how long an open breaker is known, if it is not copied again
-- ARGV[3] keep_s     lifetime of the keys
-- ARGV[4] breakers   JSON [[open, changed_ms], …] in the order of the keys
-- Returns the number of breakers that are applied

local time = redis.call('TIME')
local now = (tonumber(time[1]) + tonumber(ARGV[1])) * 1000
local done = 0
for i, one in ipairs(cjson.decode(ARGV[4])) do
  local key = KEYS[i]
  if one[2] >= tonumber(redis.call('HGET', key, 'breaker_at') or 0) then
    local ends = one[1] == 1 and now + tonumber(ARGV[2]) * 1000 or 0
    redis.call('HSET', key, 'breaker', ends, 'breaker_at', one[2])
    redis.call('EXPIRE', key, ARGV[3])
    done = done + 1
  end
end
return done
