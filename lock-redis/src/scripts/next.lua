-- A token as text. `%d` is a C long, which is short somewhere; `%.0f` takes longer; and `..` rounds.
local function text_of(token)
  return string.format(token < 2147483648 and '%d' or '%.0f', token)
end
-- The token that this counter gave, or the next one above `known`; whether the counter was raised; and, if it was not,
-- the token as a number, where a script's numbers are exact. Nothing if the counter is new and `new` does not say that
-- this is right.
local function next_token(token, counter, known, new)
  if token == 1 and new ~= '1' then
    redis.call('DEL', counter)
    return nil
  end
  local exact = token < 9007199254740992
  local text = exact and text_of(token) or redis.call('GET', counter)
  -- Numbers that were rounded can seem equal; texts cannot.
  if token > tonumber(known) or not exact and is_less(known, text) then
    return text, 0, exact and token
  end
  redis.call('SET', counter, known)
  redis.call('INCR', counter)
  return redis.call('GET', counter), 1
end
