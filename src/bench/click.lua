-- The requests of the measured redirects, the same for every server: ads, devices, regions, visitors and their
-- addresses vary. Arguments: the ads with commas between them, then milliseconds that a connection waits between two requests.
local READY = 4096
local devices = { "ios", "android", "desktop", "tablet" }
local regions = { "US-CA", "US-NY", "DE", "IN-WB", "AU-NSW" }
local agents = {
  "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
  "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
  "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
}

local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local ready, sent = {}, 0
function init(args)
  local ads = {}
  for ad in string.gmatch(args[1], "[^,]+") do
    ads[#ads + 1] = ad
  end
  local wait_ms = tonumber(args[2])
  if wait_ms > 0 then
    delay = function() return wait_ms end
  end
  for i = 1, READY do
    local visitor = (i * 26544357 + number * 97) % 1000003
    local path = "/click?ad_id=" .. ads[1 + visitor % #ads] .. "&user_id=u" .. visitor
      .. "&device=" .. devices[1 + visitor % #devices] .. "&geo=" .. regions[1 + visitor % #regions]
      .. "&creative=v" .. visitor % 3
    ready[i] = wrk.format("GET", path, {
      ["User-Agent"] = agents[1 + visitor % #agents],
      ["X-Forwarded-For"] = "198." .. 18 + number % 2 .. "." .. visitor % 256 .. "." .. math.floor(visitor / 256) % 256,
    })
  end
end

function request()
  sent = sent + 1
  return ready[1 + sent % READY]
end
