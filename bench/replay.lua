-- Sends the requests of REQUESTS (each whole, as bytes on the wire, after a line that gives its length) round and round.
-- A single one is handed to wrk once, which then sends it without asking again.
local requests = {}
local file = assert(io.open(os.getenv("REQUESTS"), "rb"))
while true do
  local length = file:read("*n")
  if not length then break end
  file:read(1)
  requests[#requests + 1] = file:read(length)
end
file:close()

wrk.format = function() return requests[1] end

if #requests > 1 then
  local turn = 0
  request = function()
    turn = turn % #requests + 1
    return requests[turn]
  end
end
