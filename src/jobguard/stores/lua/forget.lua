--[[
Remove a record, whatever its state.

KEYS  1 record
ARGV  1 token  random, of this call
Returns 1, or 0 if there was none.
]]
-- include: _again

local kept = '{' .. KEYS[1] .. '}:answer:' .. ARGV[1]
local before = answered_before(kept)
if before then return before end
local removed = redis.call('DEL', KEYS[1])
if removed == 1 then keep_answer(kept, removed) end
return removed
