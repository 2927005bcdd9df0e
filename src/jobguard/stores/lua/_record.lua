--[[
How a record is kept: one packed string per key, also read by jobguard.stores.records.

  head      "<state><mark> <until> <overdue> <crashes> <fence> <age> "
            mark: "+" if a tail follows, else "-"; until: server time in ms; overdue: ms;
            fence: server time in µs, or higher; age: ms from the first claim to the fence's time,
            which is 0 for most and so takes the least memory
  identity  "<#owner> <#token> <#fingerprint>\n", then these three texts, as long as that says
  tail      raw bytes

The tail is the history of an open record and the body of an ended one. Numbers are doubles in Lua:
all of these stay below 2^53. This text stands in a script behind what most calls end with, which
need none of it: to define functions takes longer than that.
]]
local ENDED = { S = true, F = true, D = true }

local function identify(text, from)
  local owner, token, print, at = string.match(text, '^(%d+) (%d+) (%d+)\n()', from)
  local token_at = at + owner
  local print_at = token_at + token
  local tail_at = print_at + print
  return string.sub(text, at, token_at - 1), string.sub(text, token_at, print_at - 1),
    string.sub(text, print_at, tail_at - 1), tail_at
end

local function read(raw)
  local state, mark, ends, overdue, crashes, fence, age, at = string.match(
    raw, '^(%a)([+-]) (%d+) (%d+) (%d+) (%d+) (-?%d+) ()')
  local owner, token, fingerprint, tail_at = identify(raw, at)
  return {
    state = state,
    ends = tonumber(ends),
    overdue = tonumber(overdue),
    crashes = tonumber(crashes),
    fence = tonumber(fence),
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
    record.overdue, record.crashes, record.fence, math.floor(record.fence / 1000) - record.first,
    #record.owner, #record.token, #record.fingerprint)
  redis.call(
    'SET', key, head .. record.owner .. record.token .. record.fingerprint .. (record.tail or ''), 'PX', lives)
end
