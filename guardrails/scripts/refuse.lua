-- Latches that the content policy refused a request: no later call of it is admitted, whatever it says.
--
-- A call that was admitted before keeps its result, so that the answer about it stays true.
--
-- KEYS[1]  seen     hash attempt; refused: why the content policy refused the request
-- ARGV[1]  attempt  integer, as in admit.lua
-- ARGV[2]  why      the category
-- ARGV[3]  keep_s   lifetime of the key
-- Returns  {"content", why: of the first refusal} or {"replay", ""}

local seen = redis.call('HMGET', KEYS[1], 'attempt', 'refused')
if seen[1] and tonumber(seen[1]) >= tonumber(ARGV[1]) then return {'replay', ''} end
if seen[2] then return {'content', seen[2]} end
redis.call('HSET', KEYS[1], 'refused', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {'content', ARGV[2]}
