--[[
What is known of a key.

KEYS  1 record
Returns nil, or {record, server time in ms}.
]]
local raw = redis.call('GET', KEYS[1])
if not raw then return false end
local time = redis.call('TIME')
return { raw, time[1] * 1000 + math.floor(time[2] / 1000) }
