-- Renames a counter, so that it continues in a new realm.
-- KEYS: the counter of the old realm, the counter of the new one.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
