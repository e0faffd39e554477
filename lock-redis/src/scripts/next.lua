-- The next token of this counter, above `known`; whether the counter was raised; and, if it was not, the token as a
-- number, where a script's numbers are exact. Nothing if the counter is new and `new` does not say that this is right.
-- The number becomes text here, since a script's `..` rounds large ones.
local function next_token(counter, known, new)
  local token = redis.call('INCR', counter)
  if token == 1 and new ~= '1' then
    redis.call('DEL', counter)
    return nil
  end
  local raised = 0
  if token <= tonumber(known) then
    redis.call('SET', counter, known)
    token = redis.call('INCR', counter)
    raised = 1
  end
  if token < 9007199254740992 then
    return string.format('%d', token), raised, raised == 0 and token
  end
  return redis.call('GET', counter), raised
end
