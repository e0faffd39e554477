-- True if token `a` is less than token `b`. They are compared as texts, since numbers of a script
-- are exact only up to 2^53.
local function is_less(a, b)
  return #a < #b or #a == #b and a < b
end
