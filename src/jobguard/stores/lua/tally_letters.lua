--[[
The values of a dimension that most dead letters of a state have, the commonest first.

KEYS  1 stem       of the queue's keys
ARGV  1 state
      2 dimension
      3 since      arrival in µs of the first letter that counts, or '' for all
      4 limit      values at most
Returns {{value, count, arrival in µs of its oldest letter, of its newest; and of a fingerprint: {task,
task, …}, at most 20, the commonest first, id and packed letter of its newest}, …}; or 'many': there are more
than 500 values, too many to count each of them since a time. Packed letters come until a megabyte of them
has been read: more would keep everybody else waiting.
]]
-- include: _letter

local stem, dimension, since, limit = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local state = stem .. ':' .. ARGV[1]
local counts = state .. ':' .. dimension
local MOST_TASKS, LOOKED_AT, MOST_BYTES = 20, 500, 1000000

if since ~= '' and redis.call('ZCARD', counts) > LOOKED_AT then return 'many' end
local looked_at = since == '' and limit or LOOKED_AT
local found = redis.call('ZREVRANGE', counts, 0, looked_at - 1, 'WITHSCORES')
local tallies = {}
for i = 1, #found, 2 do
  local count = tonumber(found[i + 1])
  if since ~= '' then count = redis.call('ZCOUNT', counts .. ':' .. found[i], since, '+inf') end
  if count > 0 then tallies[#tallies + 1] = { found[i], count, i } end
end
if since ~= '' then
  -- Of equals, the one that is commoner over all times comes first: how texts compare depends on a locale.
  table.sort(tallies, function(a, b)
    if a[2] ~= b[2] then return a[2] > b[2] end
    return a[3] < b[3]
  end)
end
for i = #tallies, limit + 1, -1 do tallies[i] = nil end

local bytes = 0
for _, tally in ipairs(tallies) do
  local index = counts .. ':' .. tally[1]
  local oldest = redis.call(
    'ZRANGEBYSCORE', index, since == '' and '-inf' or since, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local newest = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')
  tally[3], tally[4] = whole(oldest[2]), whole(newest[2])
  if dimension == 'fingerprint' then
    tally[5] = redis.call('ZREVRANGE', state .. ':tasks:' .. tally[1], 0, MOST_TASKS - 1)
    tally[6] = newest[1]
    local raw = bytes < MOST_BYTES and redis.call('HGET', stem .. ':entries', newest[1])
    if raw then tally[7], bytes = raw, bytes + #raw end
  end
end
return tallies
