--[[
Remove a record, whatever its state.

KEYS  1 record
ARGV  1 token  random, of this call
Returns 1, or 0 if there was none. What is there and is no record is an error, and stays.
]]
-- include: _again

local kept = '{' .. KEYS[1] .. '}:answer:' .. ARGV[1]
local before = answered_before(kept)
if before then return before end
local removed = redis.call('GET', KEYS[1]) and redis.call('DEL', KEYS[1]) or 0
if removed == 1 then keep_answer(kept, removed) end
return removed
