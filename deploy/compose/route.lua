-- Every study that has become stable goes to allpacs, unless all that is new in it came from there.
local routed = { SM = true, GM = true, XC = true, OT = true } -- modalities that hold microscopy pictures

function OnStableSeries(seriesId, tags, metadata)
  if routed[tags['Modality']] and metadata['RemoteAET'] ~= 'ALLPACS' then
    RestApiPost('/modalities/allpacs/store', seriesId, false)
  end
end
