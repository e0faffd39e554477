-- Whether a token is less than another. They are compared as texts, since a script's numbers are exact only up to 2^53.
local function is_less(a, b)
  return #a < #b or #a == #b and a < b
end
