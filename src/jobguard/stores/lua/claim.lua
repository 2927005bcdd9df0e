--[[
Hold a key for a job, or say who does.

KEYS  1 record
ARGV  1 lease     ms
      2 keep      ms for which the record outlives its lease
      3 identity  owner, token (random, of this claim) and fingerprint of the payload, as in a record
      4 rerun     '1' if another job's success does not count
Returns the fence of a grant of a key without a record; else {verdict, state, owner, fence, wait ms, crashes,
      elapsed ms, history, fingerprint, body or nil}: a grant tells what the record said before, all else what
      it says.
]]
local key = KEYS[1]
local lease, keep = tonumber(ARGV[1]), tonumber(ARGV[2])
local now, micros = clock()
local before = read(key)

if not before then
  -- Most claims end here, so this is kept short.
  redis.call(
    'SET', key, string.format('P+ %.0f 0 %.0f 0 0 ', now + lease, micros) .. ARGV[3],
    'PX', string.format('%.0f', math.max(lease + keep, 1)))
  return micros
end

local owner, token, fingerprint = identify(ARGV[3])

local function grant(keeps_history, crashes)
  local kept = keeps_history and before
  local record = {
    state = 'P',
    ends = now + lease,
    overdue = 0,
    fence = math.max(before.fence + 1, micros),
    crashes = crashes,
    first = kept and kept.first or now,
    owner = owner,
    token = token,
    fingerprint = fingerprint,
    tail = kept and kept.tail or '',
  }
  write(key, record, lease + keep)
  return {
    'granted', before.state, before.owner, record.fence, 0, crashes,
    math.max(now - record.first, 0), record.tail, kept and kept.fingerprint or '', false,
  }
end

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
if state == 'S' and left > 0 and ARGV[4] ~= '1' then return describe('succeeded', before, 0, now) end
return grant(own, before.crashes)
