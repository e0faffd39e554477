-- The value at a key: nil if there is none; empty if it is of another type, which counts as held.
local function read(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'table' then
    return value
  end
  if string.find(value.err, 'WRONGTYPE', 1, true) then
    return ''
  end
  return nil, value
end
