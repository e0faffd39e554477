-- Returns the token that this counter gave, or the next one above `known`, as text; 1 if the
-- counter was raised; and if it was not, the token as a number, where numbers of a script are
-- exact. Returns nil if the counter is new and `new` does not allow that.
local function next_token(token, text, counter, known, new)
  if token == 1 and new ~= '1' then
    redis.call('DEL', counter)
    return nil
  end
  -- Numbers that were rounded can seem equal; texts cannot.
  if token > 0 and is_less(known, text) then
    return text, 0, token < 9007199254740992 and token
  end
  redis.call('SET', counter, known)
  redis.call('INCR', counter)
  return redis.call('GET', counter), 1
end
