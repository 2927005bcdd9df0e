--[[
One page of dead letters, by arrival.

KEYS  1 stem    of the queue's keys
ARGV  1 limit   entries at most
      2 lowest  arrival in µs, after '(' if it is not meant itself; or '-inf'
      3 highest the same, or '+inf'
      4 order   '1' for the oldest first, '' for the newest
      5 texts   '1' for whole packed letters, '' for all of them but the body
      6 states  how many of the following are names of states; these; then pairs of dimension and value
Returns {arrival in µs where the next page starts, or '' if no more follow; id; its arrival; packed letter;
id; …}.
A page ends early where a megabyte of letters has been read: more would keep everybody else waiting.
]]
-- include: _letter

local stem, limit, lowest, highest = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local oldest_first = ARGV[4] == '1'
local wanted_at = 7 + tonumber(ARGV[6])
local LOOKED_AT, FEW, MOST_BYTES = 500, 5, 1000000

local indexes = {}
for i = 7, wanted_at - 1 do indexes[#indexes + 1] = stem .. ':' .. ARGV[i] end

-- Of several dimensions, the one of which there are fewest letters.
local several, wanted, ending, fewest = #ARGV > wanted_at + 1, {}, '', nil
for i = wanted_at, #ARGV, 2 do
  wanted[ARGV[i]] = ARGV[i + 1]
  local suffix, size = ':' .. ARGV[i] .. ':' .. ARGV[i + 1], 0
  if several then
    for _, index in ipairs(indexes) do size = size + redis.call('ZCARD', index .. suffix) end
  end
  if not fewest or size < fewest then ending, fewest = suffix, size end
end

-- Whether a packed letter has all the values that are wanted. To take it apart in full takes twice as long.
local function agrees(raw)
  local task, err, print, at = string.match(raw, '^[DQR]%d+ %d+ (%d+) (%d+) (%d+) %d+\n()')
  if not at then return false end
  local error_at = at + task
  local print_at = error_at + err
  return (not wanted.task or string.sub(raw, at, error_at - 1) == wanted.task)
    and (not wanted.error or string.sub(raw, error_at, print_at - 1) == wanted.error)
    and (not wanted.fingerprint or string.sub(raw, print_at, print_at + print - 1) == wanted.fingerprint)
end

local function shown(raw)
  local letter = ARGV[5] == '' and read(raw, '')
  return letter and string.sub(raw, 1, letter.body_at - 1) or raw
end

-- One more than is looked at, which says whether any follow.
local most = (several and LOOKED_AT or limit) + 1
local lists = {}
for _, index in ipairs(indexes) do
  if oldest_first then
    lists[#lists + 1] = redis.call(
      'ZRANGEBYSCORE', index .. ending, lowest, highest, 'WITHSCORES', 'LIMIT', 0, most)
  else
    lists[#lists + 1] = redis.call(
      'ZREVRANGEBYSCORE', index .. ending, highest, lowest, 'WITHSCORES', 'LIMIT', 0, most)
  end
end

-- States have lists of their own, in order; so is what they come to together.
local ids, arrivals, at = {}, {}, {}
for i = 1, #lists do at[i] = 1 end
while #ids < most do
  local nearest, arrival
  for i, list in ipairs(lists) do
    local this = tonumber(list[at[i] + 1])
    if this and (not arrival or (this < arrival) == oldest_first) then nearest, arrival = i, this end
  end
  if not nearest then break end
  local list, place = lists[nearest], at[nearest]
  ids[#ids + 1], arrivals[#arrivals + 1] = list[place], list[place + 1]
  at[nearest] = at[nearest] + 2
end

local more = #ids == most
if more then ids[most] = nil end
local page, taken, last, bytes = { '' }, 0, 0, 0
while last < #ids and taken < limit and bytes < MOST_BYTES do
  local first = last + 1
  local raws = redis.call('HMGET', stem .. ':entries', unpack(ids, first, math.min(last + FEW, #ids)))
  for i, raw in ipairs(raws) do
    last = last + 1
    if raw then
      bytes = bytes + #raw
      if not several or agrees(raw) then
        page[#page + 1] = ids[last]
        page[#page + 1] = arrivals[last]
        page[#page + 1] = shown(raw)
        taken = taken + 1
      end
    end
    if taken == limit then break end
  end
end
if more or last < #ids then page[1] = whole(arrivals[last]) end
return page
