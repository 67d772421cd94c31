-- What a PACS administrator writes to have microscopy read: images go to allpacs as they come in, results do not.
function OnStoredInstance(instanceId, tags, metadata, origin)
   if origin['RemoteAet'] ~= 'ALLPACS' and tags['Modality'] == 'GM' then
      SendToModality(instanceId, 'ALLPACS')
   end
end
