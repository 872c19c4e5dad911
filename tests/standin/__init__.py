"""A strict stand-in for the official Kubernetes provider plugin, for machines that cannot have it.

It speaks the engine's protocol and drives a real API server, so the Pulumi CLI, its state and `pulumi_kubernetes` are
the real ones, and what the API server refuses is refused. It is used only where the official plugin is absent:
`tests.standin.plugin.environment` decides. What it holds to is the official provider's behaviour of 4.29 and later:

- Creates are creates: an object that exists is an error, unless the provider has `upsertExistingObjects`
  (pulumi-kubernetes pull request 4278). Updates are server-side applies with the manager's name that the create had,
  which first takes over the fields of that create; conflicts are errors unless `pulumi.com/patchForce` or
  `enablePatchForce` says otherwise.
- Previews are dry runs on the API server wherever every input is known.
- What is replaced rather than updated, what is awaited and what is said of a wait that fails follow the provider's
  sources; each module names its own.

Where it differs, on purpose:

- Creates are sent with `fieldValidation=Strict`: a misspelt field is an error here, a silent loss there.
- A Job's timeout counts from its start; the official one starts anew with each change of the Job.
- It compares live objects with inputs without Kubernetes' Go types, so a zero value or a quantity written in another
  unit is recognised by rule (`tests.standin.changes`).
- It asks the API server every half second where the official one watches.
- Patch resources, Helm, Kustomize, YAML, client-side apply and the render mode are refused, and a changed
  `pulumi.com/patchFieldManager` leaves the former manager its fields.

The conformance tests ran against this stand-in only: where they were written the official plugin cannot be had.
"""
