-- Takes the lock; or recognises the holder's own and sets its expiry again; or says who is in the way. `ending` is what
-- stands after the token, `known` the highest token known, and `new` says whether the counter may be new.
-- Given: lock, counter, tombstone, holder, ttl, ending, known, new.
-- One look at both, since most locks are free.
if redis.call('EXISTS', lock, tombstone) > 0 then
  local value, failed = read(lock)
  if failed then
    return failed
  end
  if not value then
    return {'withdrawn'}
  end
  if string.sub(value, 1, 33) == holder .. '.' then
    redis.call('PEXPIRE', lock, ttl)
    return {'granted', string.match(value, '^%x+%.(%d+)'), 0}
  end
  return {'held', value, redis.call('PTTL', lock)}
end
local token, raised, number = next_token(counter, known, new)
if not token then
  return {'new'}
end
redis.call('SET', lock, holder .. '.' .. token .. ending, 'PX', ttl)
return number or {'granted', token, raised}
