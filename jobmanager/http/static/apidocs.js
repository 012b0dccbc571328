// Show the API docs. This is a separate file because the Content Security Policy allows no inline scripts.
// A token that is typed in is lost when the page is left.
const page = document.getElementById("swagger-ui");
const address = page.dataset.specification;

// Reload the specification: it describes only the job types that the token may see.
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
