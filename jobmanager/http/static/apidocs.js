// Shows the API docs. A file of its own, so that no inline script has to be allowed. A token that is typed in
// is forgotten with the page.
const page = document.getElementById("swagger-ui");
const address = page.dataset.specification;

// Load the specification again: it describes the job types that the token may see.
async function describeFor(token) {
  const answer = await fetch(address, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.ok) window.ui.specActions.updateSpec(await answer.text());
}

const seenByToken = () => ({
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (authorize) => (given) => {
          describeFor(given.token?.value);
          return authorize(given);
        },
        logout: (logout) => (names) => {
          describeFor("");
          return logout(names);
        },
      },
    },
  },
});

window.ui = SwaggerUIBundle({
  url: address,
  domNode: page,
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  persistAuthorization: false,
  plugins: [seenByToken],
});
