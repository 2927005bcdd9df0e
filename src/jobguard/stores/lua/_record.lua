--[[
Prelude of every operation on a record: one packed string per key.

  head      "<state><mark> <until> <overdue> <fence> <crashes> <age> "
            mark: "+" if a tail follows, else "-"; until: server time in ms; overdue: ms;
            fence: server time in µs, or higher; age: ms from the first claim to the fence's time,
            which is 0 for most and so takes the least memory
  identity  "<#owner> <#token> <#fingerprint>\n", then these three texts, as long as that says
  tail      raw bytes

The tail is the history of an open record and the body of an ended one. Numbers are doubles in Lua:
all of these stay below 2^53.
]]
local ENDED = { S = true, F = true, D = true }

local function clock()
  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  return math.floor(micros / 1000), micros
end

local function identify(text, from)
  local owner, token, print, at = string.match(text, '^(%d+) (%d+) (%d+)\n()', from)
  local token_at = at + owner
  local print_at = token_at + token
  local tail_at = print_at + print
  return string.sub(text, at, token_at - 1), string.sub(text, token_at, print_at - 1),
    string.sub(text, print_at, tail_at - 1), tail_at
end

local function read(key)
  local raw = redis.call('GET', key)
  if not raw then return nil end
  local state, mark, ends, overdue, fence, crashes, age, at = string.match(
    raw, '^(%a)([+-]) (%d+) (%d+) (%d+) (%d+) (-?%d+) ()')
  local owner, token, fingerprint, tail_at = identify(raw, at)
  return {
    state = state,
    ends = tonumber(ends),
    overdue = tonumber(overdue),
    fence = tonumber(fence),
    crashes = tonumber(crashes),
    first = math.floor(tonumber(fence) / 1000) - tonumber(age),
    owner = owner,
    token = token,
    fingerprint = fingerprint,
    tail = mark == '+' and string.sub(raw, tail_at),
  }
end

local function write(key, record, lives)
  local head = string.format(
    '%s%s %.0f %.0f %.0f %.0f %.0f %d %d %d\n', record.state, record.tail and '+' or '-', record.ends,
    record.overdue, record.fence, record.crashes,
    math.floor(record.fence / 1000) - record.first, #record.owner, #record.token,
    #record.fingerprint)
  redis.call(
    'SET', key, head .. record.owner .. record.token .. record.fingerprint .. (record.tail or ''),
    'PX', string.format('%.0f', math.max(lives, 1)))
end

-- What is known of a key, behind one answer: see jobguard.stores.base.Record.
local function describe(answer, record, wait, now)
  local ended = ENDED[record.state]
  return {
    answer, record.state, record.owner, record.fence, wait, record.crashes, math.max(now - record.first, 0),
    ended and '' or record.tail, record.fingerprint, ended and record.tail or false,
  }
end
