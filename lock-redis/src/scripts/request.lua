-- Takes the lock; or recognises the holder's own and sets its expiry again; or says who is in the way. `ending` is what
-- stands after the token, `known` the highest token known, and `new` says whether the counter may be new.
-- Given: lock, counter, tombstone, holder, ttl, ending, known, new.
-- Mostly the lock is free, and its counter neither new nor too low, nor beyond what a script's numbers can say: that
-- needs nothing of what follows.
local token, text
if redis.call('EXISTS', lock, tombstone) == 0 then
  token = redis.call('INCR', counter)
  -- Asked for, since making a text of a number, or a number of `known`, takes longer.
  text = redis.call('GET', counter)
  -- As `is_less` below, which most requests need not even define.
  local is_greater = #text > #known or #text == #known and text > known
  if is_greater and token > 1 and token < 9007199254740992 then
    redis.call('SET', lock, holder .. text .. ending, 'PX', ttl)
    return token
  end
end
