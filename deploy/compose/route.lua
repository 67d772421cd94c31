-- Every series that has become stable goes to allpacs, unless it came from there. Orthanc itself tries once; what allpacs
-- did not take (it is being restarted, its disk is full) goes again with the next series and with each heart beat, which
-- Orthanc has since 1.11.1. A restart of Orthanc forgets what waits.
local routed = { SM = true, GM = true, XC = true, OT = true } -- modalities that hold microscopy pictures
local mostRefusals = 60 -- of one series by an allpacs that answers: what it cannot read does not go for ever
local waiting = {} -- refusals so far, by series

local function sendWaiting()
  for seriesId, refusals in pairs(waiting) do
    if RestApiPost('/modalities/allpacs/store', seriesId, false) ~= nil then
      waiting[seriesId] = nil
    elseif RestApiPost('/modalities/allpacs/echo', '{}', false) == nil then
      return -- it is away: the others need not be tried, one time-out after the other
    elseif refusals + 1 < mostRefusals then
      waiting[seriesId] = refusals + 1
    else
      print('allpacs refuses a series, which is sent no more: ' .. seriesId)
      waiting[seriesId] = nil
    end
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
