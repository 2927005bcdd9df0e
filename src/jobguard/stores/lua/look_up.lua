--[[
What is known of a key.

KEYS  1 record
Returns nil, or {'', state, owner, fence, wait ms, crashes, elapsed ms, history, fingerprint, body or nil}.
]]
local now = clock()
local record = read(KEYS[1])
return record and describe('', record, math.max(record.ends - now, 0), now)
