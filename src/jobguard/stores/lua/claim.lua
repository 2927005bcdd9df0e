--[[
Hold a key for a job, or say who does.

KEYS  1 record
ARGV  1 lease     ms
      2 lives     ms for which the record is kept: the lease and what it outlives it by
      3 identity  owner, token (random, of this claim) and fingerprint of the payload, as in a record
      4 rerun     given if another job's success does not count
Returns the fence of a grant of a key without a record; the record of a success that counts; else
      {verdict, wait ms, elapsed ms, record before this claim, fence, crashes}.
]]
local key, lease, lives = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local raw = redis.call('GET', key)

-- Most claims end here.
if not raw then
  local fence = time[1] * 1000000 + time[2]
  redis.call('SET', key, string.format('P+ %.0f 0 0 %.0f 0 ', now + lease, fence) .. ARGV[3], 'PX', lives)
  return fence
end
if not ARGV[4] then
  local ends = string.match(raw, '^S[+-] (%d+)')
  if ends and now < tonumber(ends) then return raw end
end

-- include: _record

local AGAIN = 30000 -- ms within which a claim may be sent again
local before = read(raw)
local owner, token, fingerprint = identify(ARGV[3])
local own, state = before.owner == owner, before.state
local left = math.max(before.ends - now, 0)

-- Where a claim that was sent again finds whom it had taken over from: its own record does not say.
local function taken_from(fence)
  return string.format('{%s}:before:%.0f', key, fence)
end

local function answer(verdict, wait)
  return { verdict, wait, math.max(now - before.first, 0), raw, before.fence, before.crashes }
end

local function grant(crashes)
  local record = {
    state = 'P',
    ends = now + lease,
    overdue = 0,
    crashes = crashes,
    fence = math.max(before.fence + 1, time[1] * 1000000 + time[2]),
    first = own and before.first or now,
    owner = owner,
    token = token,
    fingerprint = fingerprint,
    tail = own and before.tail or '',
  }
  write(key, record, lives)
  if not own and not ENDED[state] then redis.call('SET', taken_from(record.fence), raw, 'PX', AGAIN) end
  return { 'granted', 0, math.max(now - record.first, 0), raw, record.fence, crashes }
end

if state == 'P' then
  if own and before.token == token then
    -- The same claim again: the first reply was lost.
    if before.ends < now + lease then
      before.ends = now + lease
      write(key, before, lives)
    end
    raw = redis.call('GET', taken_from(before.fence)) or raw
    return answer('granted', 0)
  end
  if left > 0 then return answer(own and 'busy' or 'running', left) end
  return grant(before.crashes + 1)
end

if own and ENDED[state] then return answer(state == 'S' and 'succeeded' or 'ended', 0) end
-- A resend that was overtaken by its own settlement: granting it would undo that.
if own and before.token == token then return answer('busy', 0) end
if not own and state == 'R' and now < before.ends + before.overdue then return answer('running', left) end
return grant(before.crashes)
