--[[
How a dead letter is kept: one packed string per letter, also read by jobguard.stores.entries, and the
indexes that lead to it.

  head   "<mark><revision> <arrival> ", then the tail
         mark: "D" dead, "Q" requeued, "R" resolved; revision: counts writes, from 1; arrival: server time
         in µs, no two of a queue alike
  tail   "<#task> <#error> <#fingerprint> <#key>\n", then these four texts, as long as that says, then a
         body that no script reads

All keys begin with the queue's stem, whose braces keep them in one slot of a Cluster:

  <stem>:entries                        hash, id -> packed letter
  <stem>:keys                           hash, deduplication key -> id of the entry last written with it
  <stem>:info                           hash, "last": the latest arrival; "evicted": how many were; "told",
                                        "teller": see _kept
  <stem>:<state>                        sorted set, id -> arrival
  <stem>:<state>:<dimension>:<value>    the same, of those letters that have a value in common
  <stem>:<state>:<dimension>            sorted set, value -> how many letters of that state have it
  <stem>:<state>:tasks:<fingerprint>    sorted set, task -> how many letters of both there are

Numbers are doubles in Lua: all of these stay below 2^53.
]]
local STATES = { D = 'dead', Q = 'requeued', R = 'resolved' }
local DIMENSIONS = { 'task', 'error', 'fingerprint' }

local function whole(number)
  return string.format('%.0f', number)
end

-- What stands in a tail, which begins at a place in a text; nil if nothing of ours does.
local function parse(text, from)
  local task, err, print, key, at = string.match(text, '^(%d+) (%d+) (%d+) (%d+)\n()', from)
  if not at then return nil end
  local error_at = at + task
  local print_at = error_at + err
  local key_at = print_at + print
  local body_at = key_at + key
  return {
    task = string.sub(text, at, error_at - 1),
    error = string.sub(text, error_at, print_at - 1),
    fingerprint = string.sub(text, print_at, key_at - 1),
    key = string.sub(text, key_at, body_at - 1),
    body_at = body_at,
  }
end

-- A packed letter taken apart; nil if it is nothing of ours.
local function read(raw, id)
  local mark, revision, arrival, at = string.match(raw, '^([DQR])(%d+) (%d+) ()')
  local letter = at and parse(raw, at)
  if not letter then return nil end
  letter.id = id
  letter.mark = mark
  letter.revision = tonumber(revision)
  letter.arrival = tonumber(arrival)
  letter.tail_at = at
  return letter
end

-- Enter a letter into every index. One with its id is not in any.
local function link(stem, letter)
  local state, arrival = stem .. ':' .. STATES[letter.mark], whole(letter.arrival)
  redis.call('ZADD', state, arrival, letter.id)
  for _, dimension in ipairs(DIMENSIONS) do
    local counts, value = state .. ':' .. dimension, letter[dimension]
    redis.call('ZADD', counts .. ':' .. value, arrival, letter.id)
    redis.call('ZINCRBY', counts, 1, value)
  end
  redis.call('ZINCRBY', state .. ':tasks:' .. letter.fingerprint, 1, letter.task)
  if letter.key ~= '' then redis.call('HSET', stem .. ':keys', letter.key, letter.id) end
end

-- Take letters out of every index. They are of a batch, which changes each index once.
local function unlink(stem, letters)
  local members, counts, keys = {}, {}, stem .. ':keys'
  local function count(name, value)
    counts[name] = counts[name] or {}
    counts[name][value] = (counts[name][value] or 0) + 1
  end
  local function leave(index, id)
    members[index] = members[index] or {}
    table.insert(members[index], id)
  end
  for _, letter in ipairs(letters) do
    local state = stem .. ':' .. STATES[letter.mark]
    leave(state, letter.id)
    for _, dimension in ipairs(DIMENSIONS) do
      local name, value = state .. ':' .. dimension, letter[dimension]
      leave(name .. ':' .. value, letter.id)
      count(name, value)
    end
    count(state .. ':tasks:' .. letter.fingerprint, letter.task)
    if letter.key ~= '' and redis.call('HGET', keys, letter.key) == letter.id then
      redis.call('HDEL', keys, letter.key)
    end
  end
  for index, ids in pairs(members) do redis.call('ZREM', index, unpack(ids)) end
  for name, values in pairs(counts) do
    for value, number in pairs(values) do
      local left = tonumber(redis.call('ZINCRBY', name, -number, value))
      if left <= 0 then redis.call('ZREM', name, value) end
    end
  end
end

local function write(stem, letter, tail)
  redis.call(
    'HSET', stem .. ':entries', letter.id,
    letter.mark .. whole(letter.revision) .. ' ' .. whole(letter.arrival) .. ' ' .. tail)
  link(stem, letter)
end

-- The time, made to rise strictly: pages can go on from it.
local function next_arrival(stem)
  local info, time = stem .. ':info', redis.call('TIME')
  local arrival = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local last = redis.call('HGET', info, 'last')
  if last then arrival = math.max(arrival, tonumber(last) + 1) end
  redis.call('HSET', info, 'last', whole(arrival))
  return arrival
end
