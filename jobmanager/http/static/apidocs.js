// Shows the API docs. A file of its own, so that no inline script has to be allowed.
const page = document.getElementById("swagger-ui");

window.ui = SwaggerUIBundle({
  url: page.dataset.specification,
  domNode: page,
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
