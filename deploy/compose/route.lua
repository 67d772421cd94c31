-- Every series that has become stable goes to allpacs, unless it came from there. Orthanc itself tries once; what allpacs
-- did not take (it is being restarted, its disk is full) goes again with the next series and with each heart beat, which
-- Orthanc has since 1.11.1. A restart of Orthanc forgets what waits.
local routed = { SM = true, GM = true, XC = true, OT = true } -- modalities that hold microscopy pictures
local mostRefusals = 60 -- of one series by an allpacs that answers: what it cannot read does not go for ever
local waiting = {} -- refusals so far, by series

local function send(seriesId)
  if RestApiPost('/modalities/allpacs/store', seriesId, false) ~= nil then
    waiting[seriesId] = nil
  elseif RestApiPost('/modalities/allpacs/echo', '{}', false) ~= nil then
    waiting[seriesId] = waiting[seriesId] + 1
    if waiting[seriesId] >= mostRefusals then
      print('allpacs refuses a series, which is sent no more: ' .. seriesId)
      waiting[seriesId] = nil
    end
  end
end

local function sendWaiting()
  for seriesId in pairs(waiting) do
    send(seriesId)
  end
end

function OnStableSeries(seriesId, tags, metadata)
  if routed[tags['Modality']] and metadata['RemoteAET'] ~= 'ALLPACS' then
    waiting[seriesId] = 0
    sendWaiting()
  end
end

function OnHeartBeat()
  sendWaiting()
end

function OnDeletedSeries(seriesId)
  waiting[seriesId] = nil
end
