// Shows the API docs. A file of its own, so that no inline script has to be allowed. A token that is typed in
// is forgotten with the page.
const page = document.getElementById("swagger-ui");

window.ui = SwaggerUIBundle({
  url: page.dataset.specification,
  domNode: page,
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  persistAuthorization: false,
});
