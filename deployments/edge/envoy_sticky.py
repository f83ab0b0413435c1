"""Callers stay with a release: the script with which Envoy draws a caller's lot.

A caller is known by a cookie that means nothing, else by his Authorization header; who has neither gets the cookie.
His lot, 0 to 999, is a hash of that and of the release that is being rolled out: a release gets the lots below its
permille, so that a higher share only adds callers, and the first to try are others with each release.
Both are only about which release answers: a caller who makes up a cookie gains no more than by X-Canary.
"""

from __future__ import annotations

COOKIE = "zantara_lot"
#: Carries the lot from the script to the choice of the cluster; never to an instance.
LOT_HEADER = "x-zantara-lot"
#: Where the script finds the salt, and keeps the new cookie until the answer.
FILTER = "envoy.filters.http.lua"
_DAYS = 7

SCRIPT = f"""
local bit = require("bit")
math.randomseed(os.time() + (tonumber(tostring({{}}):match("0x(%x+)") or "0", 16) % 1000003))

local function lot_of(text)
  local hash = 2166136261
  for position = 1, #text do
    hash = (bit.bxor(hash, text:byte(position)) % 4294967296) * 65599 % 4294967296
  end
  return math.floor(hash / 65536) % 1000
end

local function new_id()
  local words = {{}}
  for place = 1, 4 do words[place] = string.format("%08x", math.random(0, 2147483646)) end
  return table.concat(words)
end

function envoy_on_request(handle)
  local salt = handle:metadata():get("salt")
  if salt == nil then return end
  local headers = handle:headers()
  local caller = nil
  local cookies = headers:get("cookie")
  if cookies ~= nil then caller = (";" .. cookies):match(";%s*{COOKIE}=(%x+)") end
  if caller == nil then caller = headers:get("authorization") end
  if caller == nil then
    caller = new_id()
    handle:streamInfo():dynamicMetadata():set("{FILTER}", "caller", caller)
  end
  headers:replace("{LOT_HEADER}", tostring(lot_of(salt .. "|" .. caller)))
end

function envoy_on_response(handle)
  local kept = handle:streamInfo():dynamicMetadata():get("{FILTER}")
  if kept == nil or kept["caller"] == nil then return end
  handle:headers():add("set-cookie",
    "{COOKIE}=" .. kept["caller"] .. "; Path=/; Max-Age={_DAYS * 86400}; HttpOnly; SameSite=Lax")
end
"""
