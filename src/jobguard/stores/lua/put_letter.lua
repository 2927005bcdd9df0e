--[[
Keep a dead letter, unless one with its id is there.

KEYS  1 entries  hash, id -> text
      2 by_time  sorted set, id -> server time in µs, made to rise strictly: pages can go on from it
ARGV  1 id
      2 text
Returns 1, or 0 if there was one, which stays as it was.
]]
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
local time = redis.call('TIME')
local arrival = tonumber(time[1]) * 1000000 + tonumber(time[2])
local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if newest[2] then arrival = math.max(arrival, tonumber(newest[2]) + 1) end
redis.call('ZADD', KEYS[2], string.format('%.0f', arrival), ARGV[1])
return 1
