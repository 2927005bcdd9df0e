--[[
Whether somebody serves a name.

KEYS  1 served  sorted set, name -> server time in ms until which it is served
ARGV  1 name
Returns 1 or 0.
]]
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local time = redis.call('TIME')
return ends and tonumber(ends) > time[1] * 1000 + math.floor(time[2] / 1000) and 1 or 0
