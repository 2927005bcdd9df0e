--[[
Hold a key for a job, or say who does.

KEYS  1 record
ARGV  1 owner        identity of the job
      2 token        random id of this claim
      3 lease        ms
      4 keep         ms for which the record outlives its lease
      5 fingerprint  of the payload, or ''
      6 rerun        '1' if another job's success does not count
Returns {verdict, state or '', owner, fence, wait ms, crashes, elapsed ms, history, fingerprint, body or nil}:
      a grant tells what the record said before ('' = there was none), all else what it says.
]]
local key, owner, token = KEYS[1], ARGV[1], ARGV[2]
local lease, keep = tonumber(ARGV[3]), tonumber(ARGV[4])
local now, micros = clock()
local before = read(key)

local function grant(keeps_history, crashes)
  local kept = keeps_history and before
  local record = {
    state = 'P',
    ends = now + lease,
    overdue = 0,
    fence = before and math.max(before.fence + 1, micros) or micros,
    crashes = crashes,
    first = kept and kept.first or now,
    owner = owner,
    token = token,
    fingerprint = ARGV[5],
    tail = kept and kept.tail or '',
  }
  write(key, record, lease + keep)
  return {
    'granted', before and before.state or '', before and before.owner or '', record.fence, 0, crashes,
    math.max(now - record.first, 0), record.tail, kept and kept.fingerprint or '', false,
  }
end

if not before then return grant(false, 0) end

local own = before.owner == owner
local state = before.state
local left = math.max(before.ends - now, 0)

if state == 'P' then
  if own and before.token == token then
    -- The same claim again: the first reply was lost.
    if before.ends < now + lease then
      before.ends = now + lease
      write(key, before, lease + keep)
    end
    return describe('granted', before, 0, now)
  end
  if left > 0 then return describe(own and 'busy' or 'running', before, left, now) end
  return grant(own, before.crashes + 1)
end

if own and ENDED[state] then return describe(state == 'S' and 'succeeded' or 'ended', before, 0, now) end
-- A resend that was overtaken by its own settlement: granting it would undo that.
if own and before.token == token then return describe('busy', before, 0, now) end
if not own and state == 'R' and now < before.ends + before.overdue then
  return describe('running', before, left, now)
end
if state == 'S' and left > 0 and ARGV[6] ~= '1' then return describe('succeeded', before, 0, now) end
return grant(own, before.crashes)
