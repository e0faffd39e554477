-- A counter goes on under the name that it has in a new realm.
-- KEYS: the counter of the old realm, that of the new one.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
