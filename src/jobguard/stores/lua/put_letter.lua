--[[
Keep a dead letter, unless one with its id is there.

KEYS  1 stem     of the queue's keys
ARGV  1 id
      2 mark     of its state
      3 tail     as in a packed letter
      4 arrival  in µs, of which the next one that is free is taken; or '' for now
      5 token    random, of this call
      6 bound    dead letters of the queue, of more of which somebody is to be told; or '' for none
Returns {1, or 0 if there was one, which stays as it was; …}, as _kept says.
]]
-- include: _letter

-- include: _kept

-- include: _again

local stem, id = KEYS[1], ARGV[1]
local kept = stem .. ':answer:' .. ARGV[5]
local before = answered_before(kept)
if before then return before end

-- Whether all of so many arrivals from one on are taken: no two letters have the same.
local function taken(first, number)
  local found = 0
  for _, state in pairs(STATES) do
    found = found + redis.call('ZCOUNT', stem .. ':' .. state, whole(first), whole(first + number - 1))
  end
  return found == number
end

-- The next free arrival, found by halving: many letters may have come out of a file with one time.
local function free_arrival(first)
  local low, high = 0, 1
  while taken(first, high) do
    low, high = high, 2 * high
  end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if taken(first, middle) then low = middle else high = middle end
  end
  local arrival = first + low
  local last = redis.call('HGET', stem .. ':info', 'last')
  if not last or tonumber(last) < arrival then redis.call('HSET', stem .. ':info', 'last', whole(arrival)) end
  return arrival
end

local raw, letter, new = redis.call('HGET', stem .. ':entries', id), nil, 0
if raw then
  letter = read(raw, id)
else
  note_fewest(stem)
  new, letter = 1, parse(ARGV[3], 1)
  letter.id, letter.mark, letter.revision = id, ARGV[2], 1
  letter.arrival = ARGV[4] == '' and next_arrival(stem) or free_arrival(tonumber(ARGV[4]))
  write(stem, letter, ARGV[3])
end
local answer = kept_as(stem, letter, new, ARGV[6])
if new == 1 then keep_answer(kept, answer) end
return answer
