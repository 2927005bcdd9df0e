--[[
Remove a dead letter.

KEYS  1 entries  hash, id -> text
      2 by_time  sorted set, id -> server time in µs
ARGV  1 id
Returns 1, or 0 if there was none.
]]
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
