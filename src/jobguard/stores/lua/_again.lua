--[[
What an operation has answered, kept for a while under the token of its call: sent again for want of a
reply, it is not done a second time, and has the same answer. Operations whose own traces tell do without.
]]
local AGAIN = 30000 -- ms within which a call may come again

local function answered_before(kept)
  local answer = redis.call('GET', kept)
  return answer and cjson.decode(answer)
end

local function keep_answer(kept, answer)
  redis.call('SET', kept, cjson.encode(answer), 'PX', AGAIN)
end
