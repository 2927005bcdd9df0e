--[[
Remove dead letters for good.

KEYS  1 stem     of the queue's keys
ARGV  1 token    random, of this call
      2 evicted  '1' if they make room for others, else ''
      3 id and revision of each; '' in place of a revision = whichever it is
Returns {1, or 0 if it was not there or has another revision; …}, of the first of them at least.
It ends early where a megabyte of letters has been read: more would keep everybody else waiting.
]]
-- include: _letter

-- include: _again

local stem = KEYS[1]
local kept = stem .. ':answer:' .. ARGV[1]
local before = answered_before(kept)
if before then return before end
local MOST_BYTES = 1000000
local entries, removed, number, letters, bytes = stem .. ':entries', {}, 0, {}, 0
for i = 3, #ARGV, 2 do
  if bytes >= MOST_BYTES then break end
  local id, revision = ARGV[i], tonumber(ARGV[i + 1])
  local raw = redis.call('HGET', entries, id)
  bytes = bytes + (raw and #raw or 0)
  local letter = raw and read(raw, id)
  local meant = raw and (not revision or letter and letter.revision == revision)
  if meant then
    redis.call('HDEL', entries, id)
    number, letters[#letters + 1] = number + 1, letter
    -- What is nothing of ours does not say where it was entered: by time at most.
    if not letter then
      for _, state in pairs(STATES) do redis.call('ZREM', stem .. ':' .. state, id) end
    end
  end
  removed[#removed + 1] = meant and 1 or 0
end
unlink(stem, letters)
if ARGV[2] == '1' and number > 0 then redis.call('HINCRBY', stem .. ':info', 'evicted', number) end
if number > 0 then keep_answer(kept, removed) end
return removed
