-- The next token of this counter, above `known`; whether the counter was raised; and, if it was not, the token as a
-- number, where a script's numbers are exact. Nothing if the counter is new and `new` does not say that this is right.
-- The number becomes text here, since a script's `..` rounds large ones.
local function next_token(counter, known, new)
  local token = redis.call('INCR', counter)
  if token == 1 and new ~= '1' then
    redis.call('DEL', counter)
    return nil
  end
  local exact = token < 9007199254740992
  local text = exact and string.format('%.0f', token) or redis.call('GET', counter)
  -- Numbers that were rounded can seem equal; texts cannot.
  if token > tonumber(known) or not exact and is_less(known, text) then
    return text, 0, exact and token
  end
  redis.call('SET', counter, known)
  redis.call('INCR', counter)
  return redis.call('GET', counter), 1
end
