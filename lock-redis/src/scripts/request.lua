-- Takes the lock; or recognises the holder's own and sets its expiry again; or says who is in the way.
-- KEYS: lock, counter, tombstone. ARGV: holder, TTL in ms, information, highest token known, may the counter be new.
local value, failed = read(KEYS[1])
if failed then
  return failed
end
if value and string.sub(value, 1, 33) == ARGV[1] .. '.' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {'granted', string.match(value, '^%x+%.(%d+)'), 0}
end
if value then
  return {'held', value, redis.call('PTTL', KEYS[1])}
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  return {'withdrawn'}
end
local token, raised = next_token(KEYS[2], ARGV[4], ARGV[5])
if not token then
  return {'new'}
end
redis.call('SET', KEYS[1], ARGV[1] .. '.' .. token .. ARGV[3], 'PX', ARGV[2])
return {'granted', token, raised}
