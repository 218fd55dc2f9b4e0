-- Gives back what one request holds. Idempotent: a second release finds nothing and changes nothing.
--
-- KEYS[1] seen
-- KEYS[2] takes
-- KEYS[3] starts
-- KEYS[4] money
-- KEYS[5] all_starts
-- KEYS[6] all_money
-- ARGV[1] request_id
-- ARGV[2] what   "quota": charged and failed; "unpaid": proof of no charge; "all": there is no order
-- Returns the number of members removed

local request, what = ARGV[1], ARGV[2]
local removed = redis.call('ZREM', KEYS[2], request)
if what ~= 'quota' then
  removed = removed + redis.call('ZREM', KEYS[3], request) + redis.call('HDEL', KEYS[4], request)
  removed = removed + redis.call('ZREM', KEYS[5], request) + redis.call('HDEL', KEYS[6], request)
end
if what == 'all' then removed = removed + redis.call('DEL', KEYS[1]) end
return removed
