--[[
The dead letter that was last written with a deduplication key.

KEYS  1 entries  hash, id -> packed letter
      2 keys     hash, deduplication key -> id
ARGV  1 key
Returns nil, or {id, packed letter}.
]]
local id = redis.call('HGET', KEYS[2], ARGV[1])
local raw = id and redis.call('HGET', KEYS[1], id)
return raw and { id, raw }
