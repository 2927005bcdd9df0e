--[[
A queue of dead letters in numbers.

KEYS  1 dead      sorted set, id -> server time in µs
      2 requeued  the same
      3 resolved  the same
      4 info      hash
Returns {dead, requeued, resolved, evicted, server time in µs}.
]]
local time = redis.call('TIME')
return {
  redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]),
  tonumber(redis.call('HGET', KEYS[4], 'evicted') or 0), tonumber(time[1]) * 1000000 + tonumber(time[2]),
}
