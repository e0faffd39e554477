-- Takes the lock; or recognises the holder's own and sets its expiry again; or says who is in the way. `ending` is what
-- stands after the token, `known` the highest token known, and `new` says whether the counter may be new.
-- Given: lock, counter, tombstone, holder, ttl, ending, known, new.
-- Mostly the lock is free, and its counter neither new nor too low nor great: that needs nothing of what follows.
local token
if redis.call('EXISTS', lock, tombstone) == 0 then
  token = redis.call('INCR', counter)
  -- A difference of a number and a text is a number.
  if token > 1 and token - known > 0 and token < 2147483648 then
    redis.call('SET', lock, holder .. string.format('%d', token) .. ending, 'PX', ttl)
    return token
  end
end
