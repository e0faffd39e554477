-- Ends the lease of the holder that was seen, and uses up a token.
-- KEYS: lock, counter. ARGV: holder, a holder that nobody has or an empty text to free the lock at
-- once, highest token known, 1 if the counter may be new, limit of the lead of a token over the
-- counter.
local value, failed = read(KEYS[1])
if failed then
  return failed
end
if not value or string.sub(value, 1, 33) ~= ARGV[1] then
  return {'other'}
end
local remaining = redis.call('PTTL', KEYS[1])
if ARGV[2] ~= '' and remaining < 0 then
  return {'endless'}
end
-- A token that the counter cannot have given was not written by this program, and is ignored.
local known, counter = string.match(value, '^%x+%.(%d+)'), redis.call('GET', KEYS[2])
local reached = math.max(tonumber(ARGV[3]), tonumber(counter or '0'))
if tonumber(known) < tonumber(ARGV[3]) or tonumber(known) > reached + tonumber(ARGV[5]) then
  known = ARGV[3]
end
local token, raised = next_token(redis.call('INCR', KEYS[2]), redis.call('GET', KEYS[2]), KEYS[2], known, ARGV[4])
if not token then
  return {'new'}
end
if ARGV[2] == '' then
  -- First the command that may be denied, as for a release.
  redis.call('PUBLISH', KEYS[1], '')
  redis.call('DEL', KEYS[1])
else
  local info = string.match(value, '^%x+%.%d+%.!?(.*)$') or ''
  redis.call('SET', KEYS[1], ARGV[2] .. token .. '.!' .. info, 'KEEPTTL')
end
return {'broken', token, raised, value, remaining}
