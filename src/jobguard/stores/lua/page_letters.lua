--[[
One page of dead letters, newest first.

KEYS  1 entries  hash, id -> text
      2 by_time  sorted set, id -> server time in µs, no two alike
ARGV  1 limit    entries at most
      2 before   time in µs of the entry that ended the page before, or '' for the first page
Returns {time of the last entry, or '' if no more follow; id; text; id; text; …}.
]]
local limit = tonumber(ARGV[1])
local from = ARGV[2] == '' and '+inf' or '(' .. ARGV[2]
local found = redis.call('ZREVRANGEBYSCORE', KEYS[2], from, '-inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
local page = { '' }
if #found > 2 * limit then page[1] = string.format('%.0f', tonumber(found[2 * limit])) end
for i = 1, math.min(#found, 2 * limit), 2 do
  page[#page + 1] = found[i]
  page[#page + 1] = redis.call('HGET', KEYS[1], found[i]) or ''
end
return page
