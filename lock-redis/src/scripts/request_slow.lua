-- The rest of a request that is not the common case. `token` and `text` are the reply of the
-- counter, and nil if there is a lock or a tombstone.
if not token then
  local value, failed = read(lock)
  if failed then
    return failed
  end
  if not value then
    return {'withdrawn'}
  end
  if string.sub(value, 1, 33) == holder then
    redis.call('PEXPIRE', lock, ttl)
    return {'granted', string.match(value, '^%x+%.(%d+)'), 0}
  end
  -- The counter is returned because it shows whether it can have given this token.
  local reached = redis.pcall('GET', counter)
  return {'held', value, redis.call('PTTL', lock), type(reached) == 'string' and reached}
end
local number, raised
text, raised, number = next_token(token, text, counter, known, new)
if not text then
  return {'new'}
end
redis.call('SET', lock, holder .. text .. ending, 'PX', ttl)
return number or {'granted', text, raised}
