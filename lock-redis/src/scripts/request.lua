-- Takes a free lock; sets the expiry again if it is the holder's own; otherwise returns its holder.
-- `ending` is the info suffix after the token, `known` the highest token known, and `new` is '1' if
-- the counter may be new.
-- Given: lock, counter, tombstone, holder, ttl, ending, known, new.
--
-- In the common case the lock is free, and its counter is neither new nor too low, and exact as a
-- number of a script: then nothing of `request_slow` runs.
local token, text
if redis.call('EXISTS', lock, tombstone) == 0 then
  token = redis.call('INCR', counter)
  -- Read as text, since converting a number to text, or `known` to a number, is slower.
  text = redis.call('GET', counter)
  -- As `is_less`, which the common case need not even define.
  local is_greater = #text > #known or #text == #known and text > known
  if is_greater and token > 1 and token < 9007199254740992 then
    redis.call('SET', lock, holder .. text .. ending, 'PX', ttl)
    return token
  end
end
